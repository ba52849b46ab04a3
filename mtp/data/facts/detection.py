"""Horizontal and rotated detection."""
from mtp.data.facts.base import Facts
from mtp.data.samrs.subsets import SUBSETS

_DOTA_SOURCE = '%s et al., Wuhan University: DOTA-%s on the DOTA site, train, val and %s'
_DOTA_LICENCE = 'academic use only; images of Google Earth, GF-2, JL-1 and CycloMedia'

DETECTION: dict[str, Facts] = {
    'xview': Facts(
        title='xView', task='horizontal',
        classes=('Fixed-wing Aircraft', 'Small Aircraft', 'Cargo Plane', 'Helicopter',
                 'Passenger Vehicle', 'Small Car', 'Bus', 'Pickup Truck', 'Utility Truck', 'Truck',
                 'Cargo Truck', 'Truck w/Box', 'Truck Tractor', 'Trailer', 'Truck w/Flatbed',
                 'Truck w/Liquid', 'Crane Truck', 'Railway Vehicle', 'Passenger Car', 'Cargo Car',
                 'Flat Car', 'Tank car', 'Locomotive', 'Maritime Vessel', 'Motorboat', 'Sailboat',
                 'Tugboat', 'Barge', 'Fishing Vessel', 'Ferry', 'Yacht', 'Container Ship',
                 'Oil Tanker', 'Engineering Vehicle', 'Tower crane', 'Container Crane',
                 'Reach Stacker', 'Straddle Carrier', 'Mobile Crane', 'Dump Truck', 'Haul Truck',
                 'Scraper/Tractor', 'Front loader/Bulldozer', 'Excavator', 'Cement Mixer',
                 'Ground Grader', 'Hut/Tent', 'Shed', 'Building', 'Aircraft Hangar',
                 'Damaged Building', 'Facility', 'Construction Site', 'Vehicle Lot', 'Helipad',
                 'Storage Tank', 'Shipping container lot', 'Shipping Container', 'Pylon', 'Tower'),
        source='D. Lam et al., DIUx: xView challenge site (registration), train_images and '
               'train_labels',
        licence='CC BY-NC-SA 4.0',
        size='846 labelled images of about 2500 to 5000 px, 0.3 m; divided 700 / 146 at random, by '
             "a fixed seed (the paper's own division is not published), tiles of 416",
        layout='train_images/*.tif, xView_train.geojson'),
    'dior': Facts(
        title='DIOR', task='horizontal', classes=SUBSETS['sior'].classes,
        source='K. Li et al., Northwestern Polytechnical University: DIOR, the archives of images '
               '(trainval, test), annotations and image sets',
        licence='not stated; for research',
        size='23463 images of 800 px, 0.5 to 30 m; 11725 / 11738',
        layout='JPEGImages-{trainval,test}/*.jpg, Annotations/"Horizontal Bounding Boxes"/*.xml, '
               'ImageSets/Main/{train,val,test}.txt (or Main/)'),
    'dior_r': Facts(
        title='DIOR-R', task='rotated', classes=SUBSETS['sior'].classes,
        source='G. Cheng et al., Northwestern Polytechnical University: DIOR-R, images and lists '
               'as DIOR, the archive of oriented annotations',
        licence='not stated; for research',
        size='23463 images of 800 px, 0.5 to 30 m; 5862 / 5863 / 11738, trains on the first two',
        layout='JPEGImages-{trainval,test}/*.jpg, Annotations/"Oriented Bounding Boxes"/*.xml, '
               'ImageSets/Main/{train,val,test}.txt (or Main/)'),
    'fair1m': Facts(
        title='FAIR1M-2.0', task='rotated', classes=SUBSETS['fast'].classes,
        source='X. Sun et al., Aerospace Information Research Institute: FAIR1M on the Gaofen '
               'challenge site (registration), train, validation and test',
        licence='CC BY-NC-SA 3.0',
        size='42792 images of 600 to 10000 px, 0.3 to 0.8 m; 16488 / 8287 / 18021, trains on the '
             'first two; tiles of 800',
        layout='train/part{1,2}/{images/*.tif,labelXml/*.xml} (or train/ without parts), '
               'validation/{images,labelXml}, test/images'),
    'dota_v1': Facts(
        title='DOTA-V1.0', task='rotated', classes=(
            'plane', 'baseball-diamond', 'bridge', 'ground-track-field', 'small-vehicle',
            'large-vehicle', 'ship', 'tennis-court', 'basketball-court', 'storage-tank',
            'soccer-ball-field', 'roundabout', 'harbor', 'swimming-pool', 'helicopter'),
        source=_DOTA_SOURCE % ('G.-S. Xia', 'v1.0', 'test'), licence=_DOTA_LICENCE,
        size='2806 images of 800 to 4000 px (some 13000); 1411 / 458 / 937, trains on the first '
             'two; tiles of 1024, multi-scale',
        layout='{train,val}/{images/*.png,labelTxt/*.txt} (or labelTxt-v1.0), test/images'),
    'dota_v2': Facts(
        title='DOTA-V2.0', task='rotated', classes=(
            'plane', 'baseball-diamond', 'bridge', 'ground-track-field', 'small-vehicle',
            'large-vehicle', 'ship', 'tennis-court', 'basketball-court', 'storage-tank',
            'soccer-ball-field', 'roundabout', 'harbor', 'swimming-pool', 'helicopter',
            'container-crane', 'airport', 'helipad'),
        source=_DOTA_SOURCE % ('J. Ding', 'v2.0 (and the images of v1.0, which it adds to)',
                               'test-dev'),
        licence=_DOTA_LICENCE,
        size='5215 images of 800 to 20000 px (some 29200); 1830 / 593 / 2792 (test-dev), trains '
             'on the first two; tiles of 1024',
        layout='{train,val}/{images/*.png,labelTxt/*.txt} (or labelTxt-v2.0), test-dev/images (or '
               'test/images)'),
}
